-- Write the latest event of each device, unless its hash holds a later one. Atomic, and harmless to repeat.
--
-- KEYS: the devices' hashes
-- ARGV[1]: MessagePack list of their events, in the same order
--   reading:   { event_time, at, deadline_ms, datatype_id, datatype_name, datatype_unit, persist, json }
--   tombstone: { event_time, at, deadline_ms }
--   event_time: YYYY-MM-DDTHH:MM:SS.ffffffZ. Redis sets the locale, and `<` on texts follows it: of two texts of this
--     form, which differ in digits alone, every locale says the same
--   at: "offset:partition:delay", see stamps.py; the first two decide between equal event times
--   deadline_ms: when it expires, 0 for never; one that has passed is not written
--   json: names of the fields whose kind of text is not the usual one; nil for none
-- Returns: a letter for each device, and behind them, for each s, ",number (from 1):delay:event time" of the held winner
--   n new    u updated    e the same reading is held    g the tombstone won, now or before
--   s stale, a later reading is held    t stale, and nothing to be done    x expired    r refused: the key is not a hash
--
-- A hash without a stamp of this form is not ours: older than anything, and replaced whole.

local STAMP = '^(-?%d+):(%d+):(-?%d+)$'
local TOMBSTONE_MS_WITHOUT_TTL = 86400000

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Returns: 1 when the event is the later one, 0 when it is the one that is held, -1 when it is the earlier one; and the
-- delay of what is held
local function compare(time, at, held_time, held_at)
  local held_offset, held_partition, held_delay = string.match(held_at or '', STAMP)
  if not held_offset then return 1 end
  if time ~= held_time then return time > held_time and 1 or -1, held_delay end
  local offset, partition = string.match(at, STAMP)
  if offset == held_offset and partition == held_partition then return 0, held_delay end
  if offset ~= held_offset then return tonumber(offset) > tonumber(held_offset) and 1 or -1, held_delay end
  return tonumber(partition) > tonumber(held_partition) and 1 or -1, held_delay
end

-- Fields are set before others are deleted: in a slot that migrates, a hash that was deleted first is gone.
local function remove_all_but(key, written)
  local kept, stale = {}, {}
  for i = 1, #written, 2 do kept[written[i]] = true end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if not kept[field] then stale[#stale + 1] = field end
  end
  for first = 1, #stale, 1000 do
    redis.call('HDEL', key, unpack(stale, first, math.min(first + 999, #stale)))
  end
end

local function write(key, fields)
  redis.call('HSET', key, unpack(fields))
  if redis.call('HLEN', key) ~= #fields / 2 then remove_all_but(key, fields) end
end

-- The usual reading, without a table of its fields: an eighth of the script's time.
local function write_usual(key, event)
  redis.call('HSET', key, 'last_updated', event[1], '_at', event[2], 'persist', event[7], 'datatype_id', event[4],
    'datatype_name', event[5], 'datatype_unit', event[6])
  return redis.call('HLEN', key) == 6
end

local function fields_of(event)
  local fields = { 'last_updated', event[1], '_at', event[2], 'persist', event[7] }
  if event[4] then fields[#fields + 1], fields[#fields + 2] = 'datatype_id', event[4] end
  if event[5] then fields[#fields + 1], fields[#fields + 2] = 'datatype_name', event[5] end
  if event[6] then fields[#fields + 1], fields[#fields + 2] = 'datatype_unit', event[6] end
  if event[8] then fields[#fields + 1], fields[#fields + 2] = '_json', event[8] end
  return fields
end

-- Returns: the letter; and for s the held winner's delay and event time
local function put(key, event)
  local time, at, deadline_ms = event[1], event[2], event[3]
  if deadline_ms ~= 0 and deadline_ms <= now_ms then return 'x' end
  local is_tombstone = event[7] == nil
  local held = redis.pcall('HGET', key, 'last_updated')
  if type(held) == 'table' then
    if string.find(held.err, 'WRONGTYPE', 1, true) then return 'r' end
    redis.call('HGET', key, 'last_updated') -- raises the same
  end
  local lives = held
  local order, held_delay = 1, nil
  if not held then
    local stamp = redis.call('HMGET', key, '_gone', '_at')
    if stamp[1] then order = compare(time, at, stamp[1], stamp[2]) end
  elseif time <= held or is_tombstone then
    order, held_delay = compare(time, at, held, redis.call('HGET', key, '_at'))
  end
  if order == 0 then return is_tombstone and 'g' or 'e' end
  if order < 0 then
    if lives and not is_tombstone then return 's', held_delay .. ':' .. held end
    return 't'
  end
  if is_tombstone then
    write(key, { '_gone', time, '_at', at })
  elseif not (event[4] and event[5] and event[6]) or event[8] or not write_usual(key, event) then
    write(key, fields_of(event))
  end
  if deadline_ms ~= 0 then
    redis.call('PEXPIREAT', key, deadline_ms)
  elseif is_tombstone then
    redis.call('PEXPIRE', key, TOMBSTONE_MS_WITHOUT_TTL)
  else
    redis.call('PERSIST', key)
  end
  return is_tombstone and 'g' or lives and 'u' or 'n'
end

local letters, behind = {}, {}
for i, event in ipairs(cmsgpack.unpack(ARGV[1])) do
  local letter, winner = put(KEYS[i], event)
  letters[i] = letter
  if winner then behind[#behind + 1] = ',' .. i .. ':' .. winner end
end
return table.concat(letters) .. table.concat(behind)
