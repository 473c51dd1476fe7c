-- Exposes a port of a sandbox, under a token that no other port of it has.
--
-- KEYS 1 sandbox record, 2 its ports
-- ARGV 1 port, 2 it as JSON, 3 '1': with the token that it had, if it was exposed
-- Returns {'exposed', port as JSON}, {'taken', other port} or {'gone', ''}

local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'removing' or state == 'removed' or state == 'failed' then
  return {'gone', ''}
end
local wanted = cjson.decode(ARGV[2])
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before and ARGV[3] == '1' then wanted.token = cjson.decode(before).token end
for _, other in ipairs(redis.call('HVALS', KEYS[2])) do
  other = cjson.decode(other)
  if other.token == wanted.token and other.port ~= wanted.port then
    return {'taken', tostring(other.port)}
  end
end
local json = cjson.encode(wanted)
redis.call('HSET', KEYS[2], ARGV[1], json)
return {'exposed', json}
