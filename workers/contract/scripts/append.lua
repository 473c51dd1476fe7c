-- Adds events to a job's stream: the only writer of events there is. The end of a job moves its
-- line, and gives its place to whose turn it is.
--
-- KEYS 1 job record, 2 event stream, 3 sent jobs, 4 the job's line, 5 the sandbox's open jobs
-- ARGV 1 fence of the writer; '' where it does not hold the job and takes it over to close it
--      2 status that the job must have; '' for any
--      3 execution that the events belong to
--      4 channel   5 retention in seconds   6 job id
--      7 steps of a build as JSON; '' leaves them as they are
--      8 conclusion, 9 exit code, 10 error as JSON, 11 completed at: for the terminal event, else ''
--      12… triples of n, type, JSON
-- Returns {'ok', last n}: all of it is there, even where this very end was told before
--      or {'missing'} {'completed'} {'fenced'} {'moved'} {'hole', last n}: nothing was written.

local record = redis.call('HMGET', KEYS[1], 'status', 'fence', 'attempt', 'seq', 'n:' .. ARGV[3])
local status, fence, attempt = record[1], record[2], record[3]
local seq, last_n = tonumber(record[4] or '0'), tonumber(record[5] or '0')

if not status then return {'missing'} end
if status == 'completed' then
  -- Asked again because the answer was lost: it is the writer's own end that completed the job.
  if ARGV[1] == fence and tonumber(ARGV[#ARGV - 2]) == last_n then return {'ok', last_n} end
  return {'completed'}
end
if ARGV[2] ~= '' and ARGV[2] ~= status then return {'moved'} end
if ARGV[1] ~= '' and ARGV[1] ~= fence then return {'fenced'} end
if ARGV[12] and tonumber(ARGV[12]) > last_n + 1 then return {'hole', last_n} end

if ARGV[1] == '' then redis.call('HINCRBY', KEYS[1], 'fence', 1) end

local ended = false
for i = 12, #ARGV, 3 do
  local n = tonumber(ARGV[i])
  if n > last_n then
    last_n, seq = n, seq + 1
    local id, type, json = attempt .. '-' .. seq, ARGV[i + 1], ARGV[i + 2]
    redis.call('XADD', KEYS[2], id, 't', type, 'e', json)
    redis.call('PUBLISH', ARGV[4], id .. ' ' .. type .. ' ' .. json)
    ended = type == 'complete' or type == 'error'
  end
end
redis.call('HINCRBY', 'cf:counts', 'events', seq - tonumber(record[4] or '0'))
redis.call('HSET', KEYS[1], 'seq', seq, 'n:' .. ARGV[3], last_n)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'steps', ARGV[7]) end
if not ended then return {'ok', last_n} end

redis.call('HSET', KEYS[1], 'status', 'completed', 'conclusion', ARGV[8], 'exit_code', ARGV[9],
  'error', ARGV[10], 'completed_at', ARGV[11])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[6])
redis.call('SREM', KEYS[5], ARGV[6])
local place = redis.call('HMGET', KEYS[1], 'queue', 'owner', 'kind')
local queue, owner = place[1], place[2]
redis.call('HINCRBY', 'cf:counts', 'jobs ' .. place[3] .. ' ' .. ARGV[8], 1)
redis.call('SREM', 'cf:open-jobs:' .. owner, ARGV[6])
leave_queue(ARGV[6], queue, owner)
local was_head = redis.call('LINDEX', KEYS[4], 0) == ARGV[6]
redis.call('LREM', KEYS[4], 0, ARGV[6])
local next_id = was_head and redis.call('LINDEX', KEYS[4], 0)
if next_id then
  local next_queue = redis.call('HGET', 'cf:job:' .. next_id, 'queue')
  if next_queue then enqueue(next_id, next_queue, owner) end
end
release_after(queue, owner)
return {'ok', last_n}
