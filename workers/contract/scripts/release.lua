-- Sends what has a place by now, in all queues. ARGV ids of jobs whose records are gone: they leave.

local queues = redis.call('HKEYS', 'cf:queue-places')
for _, queue in ipairs(queues) do
  for _, id in ipairs(ARGV) do leave_place(id, queue) end
end
for _, id in ipairs(ARGV) do redis.call('ZREM', 'cf:sent-jobs', id) end
for _, queue in ipairs(queues) do release(queue) end
