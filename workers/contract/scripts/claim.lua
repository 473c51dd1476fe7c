-- Claims a job for a worker, for as long as its lease lasts.
--
-- A queued job at the head of its line can be claimed by anybody who got its nudge; a running one
-- only by its own node, to take over: one worker serves a node, and it asks for no job that it holds.
--
-- KEYS 1 job record
-- ARGV 1 node, 2 lease in ms, 3 now as text, 4 job id
-- Returns {'claimed', fields of the job, fields of its sandbox, its session or context as JSON}
--      or {'lost', why}

-- Waiting times are counted by the least of these that they do not exceed, in ms.
local WAITS = {10, 100, 1000, 10000, 60000}

local function count_wait(kind, wait_ms)
  local bound = 'more'
  for _, most in ipairs(WAITS) do
    if wait_ms <= most then
      bound = most
      break
    end
  end
  redis.call('HINCRBY', 'cf:counts', 'wait ' .. kind .. ' ' .. bound, 1)
  redis.call('HINCRBY', 'cf:counts', 'waited_ms ' .. kind, wait_ms)
end

local record = redis.call('HMGET', KEYS[1], 'status', 'node', 'sandbox_id', 'seat_kind', 'seat',
  'line', 'kind', 'submitted_ms')
local status = record[1]
if not status then return {'lost', 'missing'} end
if status == 'completed' then return {'lost', 'completed'} end
if status == 'queued' then
  local head = record[6] ~= '' and redis.call('LINDEX', 'cf:line:' .. record[6], 0)
  if head and head ~= ARGV[4] then return {'lost', 'not at the head of its line'} end
  redis.call('HSET', KEYS[1], 'status', 'running', 'node', ARGV[1], 'started_at', ARGV[3])
  count_wait(record[7], math.max(0, now_ms() - (record[8] or now_ms())))
elseif record[2] ~= ARGV[1] then
  return {'lost', 'another node has it'}
end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'lease_until_ms', now_ms() + ARGV[2])

local sandbox, seat = {}, ''
if record[3] and record[3] ~= '' then
  sandbox = redis.call('HGETALL', 'cf:sandbox:' .. record[3])
  if record[4] and record[4] ~= '' then
    seat = redis.call('HGET', 'cf:sandbox:' .. record[3] .. ':' .. record[4], record[5]) or ''
  end
end
return {'claimed', redis.call('HGETALL', KEYS[1]), sandbox, seat}
