-- Put devices into the index, and take others out; nothing is noted for those that were there already.
--
-- KEYS: devices, ids, seen, late
-- ARGV[1]: MessagePack of { living, seen_ms, raised, raised_ms, late, late_ms, gone }, lists of ids and of numbers
--   living: they are to be in the index, last seen then; raised: they are last seen then, if they are in it
--   late: their hash expires earlier than `seen` says: its winner's Kafka timestamp
--   gone: they are to be in it no more

local DEVICES, IDS, SEEN, LATE = unpack(KEYS)

local living, seen_ms, raised, raised_ms, late, late_ms, gone = unpack(cmsgpack.unpack(ARGV[1]))

local function paired(scores, ids)
  local pairs = {}
  for i, id in ipairs(ids) do pairs[2 * i - 1], pairs[2 * i] = scores[i] or 0, id end
  return unpack(pairs)
end

if #living > 0 then
  redis.call('SADD', DEVICES, unpack(living))
  redis.call('ZADD', IDS, paired({}, living))
  redis.call('ZADD', SEEN, 'GT', paired(seen_ms, living))
end
if #raised > 0 then redis.call('ZADD', SEEN, 'XX', 'GT', paired(raised_ms, raised)) end
if #late > 0 then redis.call('ZADD', LATE, 'GT', paired(late_ms, late)) end
if #gone > 0 then
  redis.call('SREM', DEVICES, unpack(gone))
  redis.call('ZREM', IDS, unpack(gone))
  redis.call('ZREM', SEEN, unpack(gone))
  redis.call('ZREM', LATE, unpack(gone))
end
return redis.status_reply('OK')
