-- Writes down that a job is to end. KEYS 1 job record. ARGV 1 why.
-- Returns {status, node} of the job; {''} where there is none. The first reason stays.

local record = redis.call('HMGET', KEYS[1], 'status', 'node')
if not record[1] then return {''} end
if record[1] ~= 'completed' then redis.call('HSETNX', KEYS[1], 'cancel', ARGV[1]) end
return {record[1], record[2] or ''}
