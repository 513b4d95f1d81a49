-- Write the latest readings of devices, each unless something newer is held. Atomic, and harmless to repeat.
--
-- ARGV[1]: MessagePack of { readings, tombstones }
--   reading:   { device_id, event_time, at, deadline, datatype_id, datatype_name, datatype_unit, persist, json }
--   tombstone: { device_id, event_time, at, deadline_ms, marker_deadline_ms }
--   event_time: YYYY-MM-DDTHH:MM:SS.ffffffZ, so the order of texts is the order of times
--   at: "offset:partition" of the record, which decides between equal event times
--   deadline_ms: when it expires (`deadline` is its text: Lua takes longer to write a number than Redis to set it), 0 for never; one that has passed is not written
--   json: names of the fields whose kind of text is not the usual one, see hashes.py; nil for none
-- Returns: { written, stale, expired, indexes (from 1) of readings refused, the same of tombstones }
--
-- The invariant that saves a look at the marker: while a hash of ours exists, no tombstone is newer than it.
-- Ours has `last_updated` and `_at`. Any other counts as older than anything, and is replaced whole.

local MARKER = 'stream_cache:tombstone:'
local MARKER_AT_LEAST_MS = 43200000
local OURS = { last_updated = true, _at = true, _json = true, datatype_id = true, datatype_name = true,
  datatype_unit = true, persist = true }

-- An error of Redis's: the call fails of it, but only when what it wrote has been indexed, which a repeated call won't do.
local failure

local function is_newer(time, at, held_time, held_at)
  if time ~= held_time then return time > held_time end
  local offset, partition = string.match(at, '^(-?%d+):(%d+)$')
  local held_offset, held_partition = string.match(held_at or '', '^(-?%d+):(%d+)$')
  if not held_offset then return true end
  if offset ~= held_offset then return tonumber(offset) > tonumber(held_offset) end
  return tonumber(partition) > tonumber(held_partition)
end

local function is_newer_than_marker(id, time, at)
  local marker = redis.pcall('GET', MARKER .. id)
  if type(marker) == 'table' then
    if is_wrong_type(marker) then return true end -- SET replaces it
    failure = marker.err
    return false
  end
  return not marker or is_newer(time, at, string.sub(marker, 1, 27), string.sub(marker, 29))
end

local function add_field(fields, absent, name, value)
  if value then
    local count = #fields
    fields[count + 1], fields[count + 2] = name, value
  else
    absent[#absent + 1] = name
  end
end

-- Returns: whether there were any
local function drop_foreign_fields(key)
  local has_found = false
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if not OURS[name] then has_found = redis.call('HDEL', key, name) == 1 end
  end
  return has_found
end

-- A type that is not ours at one of these must fail the call before its first write: afterwards, a repeated call would
-- find the hashes written and never complete the index.
redis.call('SCARD', DEVICES)
redis.call('ZCARD', EXPIRING)
bucket_count()

local batch = cmsgpack.unpack(ARGV[1])
local written, stale, expired = 0, 0, 0
local refused_readings, refused_tombstones = {}, {}
local gone_ids, new_ids, soon = {}, {}, {}

for i, d in ipairs(batch[2]) do
  local id, time, at, deadline_ms, marker_deadline_ms = d[1], d[2], d[3], d[4], d[5]
  local key = 'device:' .. id .. ':metadata'
  local held = redis.pcall('HMGET', key, 'last_updated', '_at')
  if held.err then
    if is_wrong_type(held) then
      refused_tombstones[#refused_tombstones + 1] = i
    else
      failure = held.err
    end
  elseif deadline_ms ~= 0 and deadline_ms <= now_ms then
    expired = expired + 1
  elseif not is_newer_than_marker(id, time, at) then
    stale = stale + 1
  else
    -- Without a TTL, old tombstones count as any other. In a rebuild the readings that one keeps out come soon after it.
    if deadline_ms == 0 then marker_deadline_ms = math.max(marker_deadline_ms, now_ms + MARKER_AT_LEAST_MS) end
    redis.call('SET', MARKER .. id, time .. ' ' .. at, 'PXAT', marker_deadline_ms)
    if held[1] and held[2] and not is_newer(time, at, held[1], held[2]) then
      stale = stale + 1
    else
      redis.call('DEL', key)
      gone_ids[#gone_ids + 1] = id
      written = written + 1
    end
  end
end

for i, d in ipairs(batch[1]) do
  local id, time, at, deadline = d[1], d[2], d[3], d[4]
  local deadline_ms = tonumber(deadline)
  local key = 'device:' .. id .. ':metadata'
  local held = redis.pcall('HGET', key, 'last_updated')
  local held_at
  if type(held) == 'string' and (time <= held or #held ~= #time) then
    held_at = redis.call('HGET', key, '_at')
    held = held_at and held
  end
  if type(held) == 'table' then
    if is_wrong_type(held) then
      refused_readings[#refused_readings + 1] = i
    else
      failure = held.err
    end
  elseif deadline_ms ~= 0 and deadline_ms <= now_ms then
    expired = expired + 1
  elseif held_at and not is_newer(time, at, held, held_at) or
      not held and not is_newer_than_marker(id, time, at) then
    stale = stale + 1
  else
    -- Not DEL in any case: once a script has written, Redis lets it write on though the memory is full.
    if not held and redis.call('EXISTS', key) == 1 then redis.call('DEL', key) end
    local json, added_count = d[9], 0
    if d[5] and d[6] and d[7] and json then
      added_count = redis.call('HSET', key, 'last_updated', time, '_at', at, 'datatype_id', d[5], 'datatype_name', d[6],
        'datatype_unit', d[7], 'persist', d[8], '_json', json)
    elseif d[5] and d[6] and d[7] then
      added_count = redis.call('HSET', key, 'last_updated', time, '_at', at, 'datatype_id', d[5], 'datatype_name', d[6],
        'datatype_unit', d[7], 'persist', d[8])
      if held then redis.call('HDEL', key, '_json') end
    else
      local fields = { 'last_updated', time, '_at', at, 'persist', d[8] }
      local absent = {}
      add_field(fields, absent, 'datatype_id', d[5])
      add_field(fields, absent, 'datatype_name', d[6])
      add_field(fields, absent, 'datatype_unit', d[7])
      add_field(fields, absent, '_json', json)
      added_count = redis.call('HSET', key, unpack(fields))
      if held and #absent > 0 then redis.call('HDEL', key, unpack(absent)) end
    end
    if deadline_ms ~= 0 then
      redis.call('PEXPIREAT', key, deadline)
      if deadline_ms - now_ms < SOON_MS then soon[#soon + 1], soon[#soon + 2] = deadline_ms, id end
    elseif held then
      redis.call('PERSIST', key)
    end
    -- Added was what the reading before had not, or `_at`: then the hash was somebody else's.
    if not held or added_count > 0 and drop_foreign_fields(key) then new_ids[#new_ids + 1] = id end
    written = written + 1
  end
end

forget_ids(gone_ids)
if #new_ids > 0 then index_ids(new_ids) end
note_expiring(soon)
if failure then return redis.error_reply(failure) end
return { written, stale, expired, refused_readings, refused_tombstones }
