-- The ids whose hash is about to expire, by when: Redis says nothing reliable of an expiry, and looking at every hash all
-- the time is dear where there are many. Whoever sees that a hash has little time left notes it here: the write that sets
-- its deadline, or the walk through the index, which comes by more often than that time.
-- Stands before each script that needs it.

local EXPIRING = 'stream_cache:expiring'
local SOON_MS = 600000

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- `scored`: pairs of deadline and id
local function note_expiring(scored)
  if #scored > 0 then redis.call('ZADD', EXPIRING, unpack(scored)) end
end
