-- Take the ids out of the index whose hash was noted to expire by now, and has.
--
-- ARGV[1]: how many to look at
-- Returns: { how many were taken out, how many were looked at }

local due = redis.call('ZRANGEBYSCORE', EXPIRING, '-inf', now_ms, 'LIMIT', 0, tonumber(ARGV[1]))
if #due == 0 then return { 0, 0 } end
redis.call('ZREM', EXPIRING, unpack(due))
local gone = {}
for _, id in ipairs(due) do
  -- One that has got more time since is noted again, by the walk.
  if redis.call('EXISTS', 'device:' .. id .. ':metadata') == 0 then gone[#gone + 1] = id end
end
return { forget_ids(gone), #due }
