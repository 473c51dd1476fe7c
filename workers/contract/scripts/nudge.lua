-- How a job is sent to its queue, from inside the scripts that decide it; put before each of them.
--
-- A Celery message (protocol 2) as kombu's Redis transport lays it into a list. Its body is not in
-- base64, which kombu takes as well, so that the id can be put in here.
local MESSAGE = [==[{"body": "[[\"@id\"], {}, {\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}]", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "@task", "id": "@id", "root_id": "@id", "parent_id": null, "group": null, "shadow": null, "eta": null, "expires": null, "retries": 0, "timelimit": [null, null], "argsrepr": "('@id',)", "kwargsrepr": "{}", "origin": "coldframe", "ignore_result": true}, "properties": {"correlation_id": "@id", "reply_to": "", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "@queue"}, "priority": 0, "delivery_tag": "@tag"}}]==]

-- By Redis' own clock, the one that all machines have in common.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function nudge(id, task, queue)
  local fields = {id = id, task = task, queue = queue}
  fields.tag = id .. '-' .. redis.call('INCR', 'cf:nudges')
  redis.call('LPUSH', queue, (MESSAGE:gsub('@(%a+)', fields)))
end

-- Sends a job, and notes when, for the leader: all jobs that run or that were sent.
local function send_job(id, task, queue)
  nudge(id, task, queue)
  redis.call('ZADD', 'cf:sent-jobs', now_ms(), id)
end

