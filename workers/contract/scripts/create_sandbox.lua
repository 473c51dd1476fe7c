-- Finds the owner's sandbox by name; else takes one that is ready in the pool, or writes a new record
-- in state `creating`.
--
-- KEYS 1 the owner's names, 2 record of the new sandbox, 3 its events,
--      4 pool of its kind; '' where it must have the id that it has
-- ARGV 1 name, 2 id of the new sandbox, 3 event `created`, 4 event `started`, as JSON,
--      5 most sandboxes of the owner ('' for no limit), 6… fields
-- Returns {'found', id}, {'created', id} or {'ready', id}: one of the pool, with an id of its own;
--      or {'many'}: the owner has as many as it may have

local id = redis.call('HGET', KEYS[1], ARGV[1])
if id then
  local state = redis.call('HGET', 'cf:sandbox:' .. id, 'state')
  if state and state ~= 'removed' and state ~= 'failed' then return {'found', id} end
end

if ARGV[5] ~= '' then
  local there = 0
  for _, other in ipairs(redis.call('HVALS', KEYS[1])) do
    local state = redis.call('HGET', 'cf:sandbox:' .. other, 'state')
    if state and state ~= 'removed' and state ~= 'failed' then there = there + 1 end
  end
  if there >= tonumber(ARGV[5]) then return {'many'} end
end

local ready = KEYS[4] ~= '' and redis.call('LPOP', KEYS[4])
while ready do
  local ready_id, node, boot_id = string.match(ready, '^(%S+) (%S+) (%S+)$')
  -- A node that is away could not serve it; it puts it back when it returns. One that has a record
  -- was given away before: Redis may have forgotten that it was taken out of the list.
  if ready_id and redis.call('EXISTS', 'cf:node:' .. node) == 1
    and redis.call('EXISTS', 'cf:sandbox:' .. ready_id) == 0 then
    local record = 'cf:sandbox:' .. ready_id
    redis.call('HSET', KEYS[1], ARGV[1], ready_id)
    redis.call('HSET', record, unpack(ARGV, 6))
    redis.call('HSET', record, 'id', ready_id, 'state', 'running', 'seq', 2, 'node', node,
      'boot_id', boot_id)
    for i, type in ipairs({'created', 'started'}) do
      local json = ARGV[i + 2]:gsub(ARGV[2], ready_id)
      redis.call('XADD', record .. ':events', '1-' .. i, 't', type, 'e', json)
    end
    redis.call('SADD', 'cf:node:' .. node .. ':sandboxes', ready_id)
    redis.call('XADD', 'cf:node:' .. node .. ':control', '*', 'm',
      '{"type":"claim_sandbox","sandboxId":"' .. ready_id .. '"}')
    return {'ready', ready_id}
  end
  ready = redis.call('LPOP', KEYS[4])
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
-- A build that tries again writes over its own record that failed, and would expire.
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'state', 'creating', 'seq', 1, unpack(ARGV, 6))
redis.call('XADD', KEYS[3], '1-1', 't', 'created', 'e', ARGV[3])
return {'created', ARGV[2]}
