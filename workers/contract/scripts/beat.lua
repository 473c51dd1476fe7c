-- A node's heartbeat. KEYS 1 its record, 2 who has its name
-- ARGV 1 id, 2 record as JSON, 3 life in ms, 4 who beats, 5 jobs that it runs at once
-- Returns {'ok', 1 where it is drained, else 0}, or {'taken'}: another worker has this name.

local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[4] then return {'taken'} end
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', 'cf:nodes', ARGV[1])
redis.call('HSET', 'cf:queue-places', 'node.' .. ARGV[1], ARGV[5])
return {'ok', redis.call('SISMEMBER', 'cf:drained-nodes', ARGV[1])}
