-- Has a job run again, from its beginning, on any node: the one that ran it is lost.
--
-- KEYS 1 job record. ARGV 1 job id, 2 the lost node, 3 most attempts, 4 steps as JSON
-- Returns 1, or 0 where it does not run there, or has had its attempts.

local record = redis.call('HMGET', KEYS[1], 'status', 'node', 'attempt', 'queue', 'owner', 'cancel')
if record[1] ~= 'running' or record[2] ~= ARGV[2] or record[6] then return 0 end
if tonumber(record[3]) >= tonumber(ARGV[3]) then return 0 end
local numbers = {'seq'}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'n:' then numbers[#numbers + 1] = field end
end
redis.call('HDEL', KEYS[1], 'node', 'lease_until_ms', 'started_at', unpack(numbers))
redis.call('HSET', KEYS[1], 'status', 'queued', 'steps', ARGV[4], 'submitted_ms', now_ms())
redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('ZREM', 'cf:sent-jobs', ARGV[1])
leave_queue(ARGV[1], record[4], record[5])
enqueue(ARGV[1], record[4], record[5])
release(record[4])
return 1
