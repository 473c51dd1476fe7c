-- Sends a job again, or a new sandbox. ARGV 1 id, 2 Celery task, 3 queue, 4 now in ms.

nudge(ARGV[1], ARGV[2], ARGV[3])
if redis.call('EXISTS', 'cf:job:' .. ARGV[1]) == 1 then
  redis.call('HSET', 'cf:job:' .. ARGV[1], 'nudged_ms', ARGV[4])
end
return 1
