-- Adds to the variables of a sandbox. KEYS 1 sandbox record. ARGV 1 name → value or null, as JSON.
-- Returns 1; 0 where there is no record.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local env = cjson.decode(redis.call('HGET', KEYS[1], 'env') or '{}')
for name, value in pairs(cjson.decode(ARGV[1])) do env[name] = value end
redis.call('HSET', KEYS[1], 'env', next(env) and cjson.encode(env) or '{}')
return 1
