-- How jobs come to be sent: owners take turns in each queue, so that what one of them heaps up delays
-- no other; put before each script, after nudge.lua.
--
-- A queue has so many places; a job has one from when it is sent until it ends. What waits for a
-- place, or for another job of its owner to end, is in its owner's list.

-- Of a queue's places, those that no owner gets beyond the rest: another's job finds one at once.
local KEPT_FREE = 0.25

-- Where no node has said how many it has.
local ANY_NUMBER = 1e9

local function count(field, by)
  if redis.call('HINCRBY', 'cf:places-taken', field, by) <= 0 then
    redis.call('HDEL', 'cf:places-taken', field)
  end
end

local function taken(field)
  return tonumber(redis.call('HGET', 'cf:places-taken', field) or '0')
end

local function take_place(id, queue, owner)
  if redis.call('HSETNX', 'cf:places:' .. queue, id, owner) == 1 then
    count(owner, 1)
    count(owner .. ' ' .. queue, 1)
  end
end

local function leave_place(id, queue)
  local owner = redis.call('HGET', 'cf:places:' .. queue, id)
  if not owner then return false end
  redis.call('HDEL', 'cf:places:' .. queue, id)
  count(owner, -1)
  count(owner .. ' ' .. queue, -1)
  return true
end

-- Sends what waits, owner after owner, as long as there are places.
local function release(queue)
  local owners = 'cf:waiting:' .. queue
  if redis.call('EXISTS', owners) == 0 then return end
  local places = tonumber(redis.call('HGET', 'cf:queue-places', queue) or ANY_NUMBER)
  local most_of_one = places - math.floor(places * KEPT_FREE)
  local passed_over = 0
  while passed_over < redis.call('LLEN', owners)
    and redis.call('HLEN', 'cf:places:' .. queue) < places do
    local owner = redis.call('LPOP', owners)
    local waiting = owners .. ':' .. owner
    local id = redis.call('LINDEX', waiting, 0)
    local job = redis.call('HMGET', 'cf:job:' .. (id or ''), 'status', 'task', 'at_once')
    local at_once = tonumber(job[3] or '') or ANY_NUMBER
    if job[1] ~= 'queued' then
      redis.call('LPOP', waiting)
    elseif taken(owner .. ' ' .. queue) < most_of_one and taken(owner) < at_once then
      redis.call('LPOP', waiting)
      take_place(id, queue, owner)
      send_job(id, job[2], queue)
      passed_over = 0
    else
      passed_over = passed_over + 1
    end
    if redis.call('EXISTS', waiting) == 1 then
      redis.call('RPUSH', owners, owner)
    else
      redis.call('SREM', 'cf:waiting-in:' .. owner, queue)
    end
  end
end

-- Has a job wait for its turn, which may be now once `release` is called.
local function enqueue(id, queue, owner)
  local owners = 'cf:waiting:' .. queue
  if redis.call('RPUSH', owners .. ':' .. owner, id) == 1 then
    redis.call('RPUSH', owners, owner)
    redis.call('SADD', 'cf:waiting-in:' .. owner, queue)
  end
end

-- Takes out a job that has ended, whether it had a place or waited for one.
local function leave_queue(id, queue, owner)
  if leave_place(id, queue) then return end
  local owners = 'cf:waiting:' .. queue
  local waiting = owners .. ':' .. owner
  if redis.call('LREM', waiting, 1, id) == 1 and redis.call('EXISTS', waiting) == 0 then
    redis.call('LREM', owners, 1, owner)
    redis.call('SREM', 'cf:waiting-in:' .. owner, queue)
  end
end

-- After a job of the owner has ended: its place is free in one queue, its owner's turn in all.
local function release_after(queue, owner)
  release(queue)
  for _, other in ipairs(redis.call('SMEMBERS', 'cf:waiting-in:' .. owner)) do
    if other ~= queue then release(other) end
  end
end

