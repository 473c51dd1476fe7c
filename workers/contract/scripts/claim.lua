-- Claims a job for a worker, for as long as its lease lasts.
--
-- A queued job at the head of its line can be claimed by anybody who got its nudge; a running one
-- only by its own node, where the lease has lapsed or another start of the worker (epoch) held it.
--
-- KEYS 1 job record, 2 the job's line
-- ARGV 1 node, 2 epoch, 3 now in ms, 4 lease in ms, 5 now as text, 6 job id
-- Returns {'claimed', fields of the job, fields of its sandbox, its session or context as JSON}
--      or {'lost', why}

local record = redis.call('HMGET', KEYS[1], 'status', 'node', 'epoch', 'lease_until_ms', 'sandbox_id',
  'seat_kind', 'seat')
local status = record[1]
if not status then return {'lost', 'missing'} end
if status == 'completed' then return {'lost', 'completed'} end
if status == 'queued' then
  local head = redis.call('LINDEX', KEYS[2], 0)
  if head and head ~= ARGV[6] then return {'lost', 'not at the head of its line'} end
  redis.call('HSET', KEYS[1], 'status', 'running', 'node', ARGV[1], 'started_at', ARGV[5])
else
  if record[2] ~= ARGV[1] then return {'lost', 'another node has it'} end
  if record[3] == ARGV[2] and tonumber(record[4]) > tonumber(ARGV[3]) then
    return {'lost', 'it is running'}
  end
end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'lease_until_ms', ARGV[3] + ARGV[4])

local sandbox, seat = {}, ''
if record[5] and record[5] ~= '' then
  sandbox = redis.call('HGETALL', 'cf:sandbox:' .. record[5])
  if record[6] and record[6] ~= '' then
    seat = redis.call('HGET', 'cf:sandbox:' .. record[5] .. ':' .. record[6], record[7]) or ''
  end
end
return {'claimed', redis.call('HGETALL', KEYS[1]), sandbox, seat}
