-- Take ids out of the index whose hash was found to be gone; not one that was indexed again since.
--
-- KEYS: devices, ids, seen, late, changes
-- ARGV[1]: MessagePack of { ids, scores }: what `seen` held of each before its hash was examined, '' for nothing
-- ARGV[2]: as in index.lua
-- Returns: how many were taken out

local DEVICES, IDS, SEEN, LATE, CHANGES = unpack(KEYS)
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
local keep_ms = tonumber(ARGV[2])
if keep_ms > 0 then
  local clock = redis.call('TIME')
  redis.call('XADD', CHANGES, 'MINID', '~', clock[1] * 1000 - keep_ms, '*', 'ids', cmsgpack.pack(gone))
end
return #gone
