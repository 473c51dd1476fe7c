-- Renews a lease. KEYS 1 job record. ARGV 1 fence, 2 lease in ms.
-- Returns {'held', why it is to be cancelled or ''} {'lost'}, or {'missing'}: Redis has forgotten the job.

local record = redis.call('HMGET', KEYS[1], 'status', 'fence', 'cancel')
if not record[1] then return {'missing'} end
if record[1] ~= 'running' or record[2] ~= ARGV[1] then return {'lost'} end
redis.call('HSET', KEYS[1], 'lease_until_ms', now_ms() + ARGV[2])
return {'held', record[3] or ''}
