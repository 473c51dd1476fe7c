-- Accepts a job: its record, its place in the line, its idempotency key, its turn; all or nothing.
--
-- KEYS 1 job record, 2 the job's line ('' for none), 3 the owner's jobs,
--      4 sandbox record ('' for a build), 5 the sandbox's open jobs, 6 idempotency key ('' for none),
--      7 the owner's open jobs
-- ARGV 1 job id, 2 now in ms, 3 most jobs in a line, 4 digest of the request, 5 key's life in s,
--      6 Celery task, 7 owner, 8 most open jobs of the owner and 9 most of them that run at once
--      ('' for no limit), 10 queue of a build, 11… fields of the record
-- Returns {'accepted'}
--      or {'repeated', id of the first} {'conflict'} {'sandbox', state} {'full'} {'many'}

if KEYS[6] ~= '' then
  local first = redis.call('HMGET', KEYS[6], 'job', 'digest')
  if first[1] == ARGV[1] then return {'accepted'} end
  if first[1] then
    if first[2] ~= ARGV[4] then return {'conflict'} end
    return {'repeated', first[1]}
  end
end
-- The client asks again where an answer was lost; the job may even have run meanwhile.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'accepted'} end
if ARGV[8] ~= '' and redis.call('SCARD', KEYS[7]) >= tonumber(ARGV[8]) then return {'many'} end
local queue = ARGV[10]
if KEYS[4] ~= '' then
  local sandbox = redis.call('HMGET', KEYS[4], 'state', 'node')
  if sandbox[1] ~= 'running' then return {'sandbox', sandbox[1] or 'removed'} end
  queue = 'node.' .. sandbox[2]
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('HINCRBY', KEYS[4], 'used', 1)
end
local is_head = true
if KEYS[2] ~= '' then
  if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[3]) then
    redis.call('SREM', KEYS[5], ARGV[1])
    return {'full'}
  end
  is_head = redis.call('RPUSH', KEYS[2], ARGV[1]) == 1
end
redis.call('HSET', KEYS[1], unpack(ARGV, 11))
redis.call('HSET', KEYS[1], 'status', 'queued', 'attempt', 1, 'fence', 0, 'task', ARGV[6],
  'queue', queue, 'at_once', ARGV[9], 'submitted_ms', now_ms())
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('SADD', KEYS[7], ARGV[1])
if KEYS[6] ~= '' then
  redis.call('HSET', KEYS[6], 'job', ARGV[1], 'digest', ARGV[4])
  redis.call('EXPIRE', KEYS[6], ARGV[5])
end
if is_head then
  enqueue(ARGV[1], queue, ARGV[7])
  release(queue)
end
return {'accepted'}
