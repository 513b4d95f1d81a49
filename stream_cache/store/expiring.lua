-- The ids whose hash is about to expire, by when: Redis says nothing reliable of an expiry, and looking at every hash all
-- the time is dear where there are many. Whoever sees that a hash has little time left notes it here: the write that sets
-- its deadline, or the walk through the index, which comes by more often than that time.
-- Stands, after index.lua, before each script that needs it.

local EXPIRING = 'stream_cache:expiring'
local SOON_MS = 600000

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- `scored`: pairs of deadline and id
local function note_expiring(scored)
  if #scored > 0 then redis.call('ZADD', EXPIRING, unpack(scored)) end
end

-- Take the ids whose hash is gone out of the index, and note those whose hash will soon be.
-- Returns: how many were taken out, and the others
local function prune(ids)
  local gone, staying, soon = {}, {}, {}
  for _, id in ipairs(ids) do
    local left_ms = redis.call('PTTL', 'device:' .. id .. ':metadata')
    if left_ms == -2 then
      gone[#gone + 1] = id
    else
      staying[#staying + 1] = id
      if left_ms >= 0 and left_ms < SOON_MS then soon[#soon + 1], soon[#soon + 2] = now_ms + left_ms, id end
    end
  end
  note_expiring(soon)
  return forget_ids(gone), staying
end
