-- Takes one request from what a key may make. KEYS 1 its rate. ARGV 1 requests in a second.
-- Returns {1 or 0, how many are left}.

local most, now = tonumber(ARGV[1]), now_ms()
local rate = redis.call('HMGET', KEYS[1], 'tokens', 'at_ms')
local tokens = most
if rate[1] then
  local passed_ms = math.max(0, now - rate[2])
  tokens = math.min(most, rate[1] + most * passed_ms / 1000)
end
local allowed = tokens >= 1
if allowed then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at_ms', now)
redis.call('PEXPIRE', KEYS[1], 2000)
return {allowed and 1 or 0, math.floor(tokens)}
