-- The token of a terminal; it is given one where it has none, for as long as its sandbox is there.
--
-- KEYS 1 sandbox record, 2 its terminals' tokens
-- ARGV 1 terminal's id, 2 the token that it is given
-- Returns the token, or false

local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'removing' or state == 'removed' or state == 'failed' then
  return false
end
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[2], ARGV[1])
