-- Makes a new sandbox a node's own. Asked twice by one node, it says the same twice.
--
-- KEYS 1 sandbox record, 2 the node's sandboxes. ARGV 1 node, 2 sandbox id
-- Returns {'claimed', fields of the sandbox} or {'lost'}

local record = redis.call('HMGET', KEYS[1], 'id', 'node')
if not record[1] or (record[2] and record[2] ~= ARGV[1]) then return {'lost'} end
redis.call('HSET', KEYS[1], 'node', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2])
return {'claimed', redis.call('HGETALL', KEYS[1])}
