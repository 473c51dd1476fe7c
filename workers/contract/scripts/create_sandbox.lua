-- Finds the owner's sandbox by name, or writes a new record in state `creating`.
--
-- KEYS 1 the owner's names, 2 record of the new sandbox, 3 its events
-- ARGV 1 name, 2 id of the new sandbox, 3 its first event as JSON, 4… fields
-- Returns {'found', id} or {'created', id}

local id = redis.call('HGET', KEYS[1], ARGV[1])
if id then
  local state = redis.call('HGET', 'cf:sandbox:' .. id, 'state')
  if state and state ~= 'removed' and state ~= 'failed' then return {'found', id} end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
-- A build that tries again writes over its own record that failed, and would expire.
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'state', 'creating', 'seq', 1, unpack(ARGV, 4))
redis.call('XADD', KEYS[3], '1-1', 't', 'created', 'e', ARGV[3])
return {'created', ARGV[2]}
