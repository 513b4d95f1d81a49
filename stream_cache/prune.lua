-- Take the ids whose hash is gone out of the index: one page of it, in the order of ids.
--
-- ARGV[1]: where the page begins, '-' or '(' and the last id of the page before
-- ARGV[2]: how many ids to look at
-- Returns: { how many were taken out, the last id of the page or '' when it was the last page }

local ids = redis.call('ZRANGEBYLEX', 'stream_cache:index', ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local removed = 0
for _, id in ipairs(ids) do
  if redis.call('EXISTS', 'device:' .. id .. ':metadata') == 0 then
    redis.call('ZREM', 'stream_cache:index', id)
    redis.call('SREM', 'devices', id)
    removed = removed + 1
  end
end
return { removed, #ids == tonumber(ARGV[2]) and ids[#ids] or '' }
