-- Moves a sandbox to another state, if it is in one of those that may become it, and tells so.
--
-- KEYS 1 sandbox record, 2 the owner's names, 3 its events, 4 its open jobs
-- ARGV 1 channel, 2 states that it may be in, separated by spaces, 3 new state; '' leaves it,
--      4 sandbox id, 5 name, 6 retention in seconds, 7 most events,
--      8 event's type (`renewed` counts as use), 9 its JSON,
--      10 '' or: only if no job is open and this is still what `used` counts,
--      11… fields to set
-- Returns {'moved'} or {'is', state}; state is '' where there is no record.

local record = redis.call('HMGET', KEYS[1], 'state', 'used')
local state = record[1] or ''
if not string.find(' ' .. ARGV[2] .. ' ', ' ' .. state .. ' ', 1, true) then return {'is', state} end
if ARGV[10] ~= '' and (redis.call('SCARD', KEYS[4]) > 0 or (record[2] or '0') ~= ARGV[10]) then
  return {'is', state}
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'state', ARGV[3]) end
if ARGV[11] then redis.call('HSET', KEYS[1], unpack(ARGV, 11)) end
if ARGV[8] == 'renewed' then redis.call('HINCRBY', KEYS[1], 'used', 1) end
local id = '1-' .. redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], id, 't', ARGV[8], 'e', ARGV[9])
if ARGV[3] == 'removed' or ARGV[3] == 'failed' then
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  redis.call('EXPIRE', KEYS[3], ARGV[6])
  if ARGV[3] == 'removed' and redis.call('HGET', KEYS[2], ARGV[5]) == ARGV[4] then
    redis.call('HDEL', KEYS[2], ARGV[5])
  end
end
redis.call('PUBLISH', ARGV[1], id .. ' ' .. ARGV[8] .. ' ' .. ARGV[9])
return {'moved'}
