-- Take ids out of the index whose hash was found to be gone; not one that was indexed again since.
--
-- KEYS: devices, ids, seen, late
-- ARGV[1]: MessagePack of { ids, scores }: what `seen` held of each before its hash was examined, '' for nothing
-- Returns: how many were taken out

local DEVICES, IDS, SEEN, LATE = unpack(KEYS)
local ids, scores = unpack(cmsgpack.unpack(ARGV[1]))
local gone = {}
for i, id in ipairs(ids) do
  if (redis.call('ZSCORE', SEEN, id) or '') == scores[i] then gone[#gone + 1] = id end
end
if #gone == 0 then return 0 end
redis.call('SREM', DEVICES, unpack(gone))
redis.call('ZREM', IDS, unpack(gone))
redis.call('ZREM', SEEN, unpack(gone))
redis.call('ZREM', LATE, unpack(gone))
return #gone
