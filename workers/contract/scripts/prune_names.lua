-- Forgets the names of sandboxes whose records have expired. KEYS 1 an owner's names.
-- Returns how many.

local names, dropped = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #names, 2 do
  if redis.call('EXISTS', 'cf:sandbox:' .. names[i + 1]) == 0 then
    dropped = dropped + redis.call('HDEL', KEYS[1], names[i])
  end
end
return dropped
