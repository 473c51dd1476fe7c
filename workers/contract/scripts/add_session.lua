-- Adds a session to a sandbox, an isolated one with a user that no other session has.
--
-- KEYS 1 the sandbox's sessions. ARGV 1 name, 2 session as JSON, 3 users of a sandbox; '' where the
-- session shares the first.
-- Returns {'added', session as JSON}, {'exists'} or {'full'}

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {'exists'} end
local json = ARGV[2]
if ARGV[3] ~= '' then
  local taken, user = {}, 1
  for _, other in ipairs(redis.call('HVALS', KEYS[1])) do
    taken[cjson.decode(other).user or 0] = true
  end
  while taken[user] do user = user + 1 end
  if user >= tonumber(ARGV[3]) then return {'full'} end
  json = json:sub(1, -2) .. ',"user":' .. user .. '}'
end
redis.call('HSET', KEYS[1], ARGV[1], json)
return {'added', json}
