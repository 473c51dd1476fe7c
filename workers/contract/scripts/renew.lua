-- Renews a lease. KEYS 1 job record. ARGV 1 fence, 2 lease in ms, 3 node.
-- Returns {'held', why it is to be cancelled or ''} {'lost'}: its own node has claimed it anew,
--      or {'over'}: it has ended, runs elsewhere, or Redis has forgotten it.

local record = redis.call('HMGET', KEYS[1], 'status', 'fence', 'cancel', 'node')
if record[1] ~= 'running' or record[4] ~= ARGV[3] then return {'over'} end
if record[2] ~= ARGV[1] then return {'lost'} end
redis.call('HSET', KEYS[1], 'lease_until_ms', now_ms() + ARGV[2])
return {'held', record[3] or ''}
