-- Writes the record of a sandbox that Redis has lost, from what its node knows.
--
-- KEYS 1 the owner's names, 2 sandbox record, 3 the node's sandboxes, 4 its events
-- ARGV 1 name, 2 sandbox id, 3… fields
-- Returns {'restored'} or {'taken'}: another one has its name now.

local id = redis.call('HGET', KEYS[1], ARGV[1])
if id and id ~= ARGV[2] then
  local state = redis.call('HGET', 'cf:sandbox:' .. id, 'state')
  if state and state ~= 'removed' and state ~= 'failed' then return {'taken'} end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
-- Its events may have been kept: they are counted on.
local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
if last then redis.call('HSET', KEYS[2], 'seq', last[1]:match('-(%d+)$')) end
redis.call('SADD', KEYS[3], ARGV[2])
return {'restored'}
