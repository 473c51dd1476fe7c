-- Sends a job again, unless it has ended, or a new sandbox. ARGV 1 id, 2 Celery task, 3 queue.

local status = redis.call('HGET', 'cf:job:' .. ARGV[1], 'status')
if not status then
  nudge(ARGV[1], ARGV[2], ARGV[3])
elseif status ~= 'completed' then
  send_job(ARGV[1], ARGV[2], ARGV[3])
end
return 1
