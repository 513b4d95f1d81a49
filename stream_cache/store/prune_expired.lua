-- Prune the ids whose hash was noted to expire by now. One that has got more time since is let go, or noted again.
--
-- ARGV[1]: how many to look at
-- Returns: { how many were taken out, how many were looked at }

local due = redis.call('ZRANGEBYSCORE', EXPIRING, '-inf', now_ms, 'LIMIT', 0, tonumber(ARGV[1]))
if #due == 0 then return { 0, 0 } end
redis.call('ZREM', EXPIRING, unpack(due))
return { (prune(due)), #due }
