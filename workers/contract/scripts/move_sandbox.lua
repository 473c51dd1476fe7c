-- Moves a sandbox to another state, if it is in one of those that may become it.
--
-- KEYS 1 sandbox record, 2 the owner's names
-- ARGV 1 channel, 2 states that it may be in, separated by spaces, 3 new state, 4 sandbox id,
--      5 name, 6 retention in seconds, 7… fields to set
-- Returns {'moved'} or {'is', state}; state is '' where there is no record.

local state = redis.call('HGET', KEYS[1], 'state') or ''
if not string.find(' ' .. ARGV[2] .. ' ', ' ' .. state .. ' ', 1, true) then return {'is', state} end
redis.call('HSET', KEYS[1], 'state', ARGV[3], unpack(ARGV, 7))
if ARGV[3] == 'removed' or ARGV[3] == 'failed' then
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  if ARGV[3] == 'removed' and redis.call('HGET', KEYS[2], ARGV[5]) == ARGV[4] then
    redis.call('HDEL', KEYS[2], ARGV[5])
  end
end
redis.call('PUBLISH', ARGV[1], ARGV[3])
return {'moved'}
