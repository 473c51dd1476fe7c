-- Counts use of sandboxes. KEYS their records; those that are not there are passed over.

for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then redis.call('HINCRBY', key, 'used', 1) end
end
return 0
