-- Sends a job again, unless it has ended, or a new sandbox. ARGV 1 id, 2 Celery task, 3 queue.
-- Returns 1, or 0 where there is no such job.

local status = redis.call('HGET', 'cf:job:' .. ARGV[1], 'status')
if not status then
  nudge(ARGV[1], ARGV[2], ARGV[3])
  return 0
elseif status ~= 'completed' then
  send_job(ARGV[1], ARGV[2], ARGV[3])
end
return 1
