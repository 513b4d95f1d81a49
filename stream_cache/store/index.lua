-- The index: the ids of the set `devices` in an order that stays, so that a walk page by page meets each exactly once.
-- Stands before each script that needs it.
--
-- The order is that of a 32-bit hash of the id, then of the id. The ids stand in buckets, each for a range of hashes:
-- sorted sets so small that Redis packs them (of ids up to 64 bytes), which takes 30 bytes an id where one large sorted
-- set takes 125. There is a bucket for every IDS_PER_BUCKET ids, one more or less at a time (linear hashing, Litwin
-- 1980): of N buckets with 2^L <= N, the first N - 2^L of 2^L equal ranges are halved.

local DEVICES, BUCKET, BUCKET_COUNT = 'devices', 'stream_cache:ids:', 'stream_cache:ids'
local HASHES = 2 ^ 32
-- Some buckets have twice as many. Redis packs up to 128; the fewer there are, the sooner one is found.
local IDS_PER_BUCKET = 16
local MOVED_AT_ONCE = 500

local function bucket_count()
  return tonumber(redis.call('GET', BUCKET_COUNT) or 1)
end

local function hash_of(id)
  return tonumber(string.sub(redis.sha1hex(id), 1, 8), 16)
end

-- Returns: how many ranges there are before any is halved, and how many hashes each is for
local function ranges_of(count)
  local _, exponent = math.frexp(count)
  return 2 ^ (exponent - 1), HASHES / 2 ^ (exponent - 1)
end

-- Returns: a function that tells of a hash the first one in its bucket, which names it, and how many the bucket is for
local function bucket_finder(count)
  local ranges, width = ranges_of(count)
  local first_whole = (count - ranges) * width
  return function(hash)
    local hashes = hash < first_whole and width / 2 or width
    return hash - hash % hashes, hashes
  end
end

local function move_hashes_from(first, from, to)
  repeat
    local found = redis.call('ZRANGEBYSCORE', from, first, '+inf', 'WITHSCORES', 'LIMIT', 0, MOVED_AT_ONCE)
    local ids, scored = {}, {}
    for i = 1, #found, 2 do
      ids[#ids + 1], scored[i], scored[i + 1] = found[i], found[i + 1], found[i]
    end
    if #ids > 0 then
      redis.call('ZADD', to, unpack(scored))
      redis.call('ZREM', from, unpack(ids))
    end
  until #ids < MOVED_AT_ONCE
end

-- Returns: the buckets of the two halves of the range that is halved next, and the first hash of the second one
local function next_halves(count)
  local ranges, width = ranges_of(count)
  local start = (count - ranges) * width
  local middle = start + width / 2
  return BUCKET .. start, BUCKET .. middle, middle
end

-- Halve ranges, or join halves, until there are as many buckets as there should be; the next call does what is left.
local function fit_bucket_count(count, most_steps)
  local wanted = math.max(1, math.ceil(redis.call('SCARD', DEVICES) / IDS_PER_BUCKET))
  local fitting = math.max(count - most_steps, math.min(count + most_steps, wanted))
  for halved = count, fitting - 1 do
    local lower, upper, middle = next_halves(halved)
    move_hashes_from(middle, lower, upper)
  end
  for halved = count - 1, fitting, -1 do
    local lower, upper, middle = next_halves(halved)
    move_hashes_from(middle, upper, lower)
  end
  if fitting == 1 then
    redis.call('DEL', BUCKET_COUNT)
  elseif fitting ~= count then
    redis.call('SET', BUCKET_COUNT, fitting)
  end
end

-- Call `change` with each id's bucket, its hash and itself, when the set of devices has changed by these ids.
local function change_buckets(ids, change)
  local count = bucket_count()
  local bucket_of = bucket_finder(count)
  for _, id in ipairs(ids) do
    local hash = hash_of(id)
    local start = bucket_of(hash)
    change(BUCKET .. start, hash, id)
  end
  fit_bucket_count(count, math.ceil(#ids / 4))
end

local function index_ids(ids)
  redis.call('SADD', DEVICES, unpack(ids))
  change_buckets(ids, function(bucket, hash, id) redis.call('ZADD', bucket, hash, id) end)
end

-- Returns: how many the set held
local function forget_ids(ids)
  if #ids == 0 then return 0 end
  local count = redis.call('SREM', DEVICES, unpack(ids))
  change_buckets(ids, function(bucket, _, id) redis.call('ZREM', bucket, id) end)
  return count
end

-- Returns: a function that tells whether an id is where the index looks for it
local function index_finder()
  local bucket_of = bucket_finder(bucket_count())
  return function(id) return redis.call('ZSCORE', BUCKET .. bucket_of(hash_of(id)), id) end
end

-- Whether an id comes before another one of the same hash, as Redis sorts: Lua's own `<` follows the locale.
local function is_before(id, other)
  for i = 1, math.min(#id, #other) do
    local byte, other_byte = string.byte(id, i), string.byte(other, i)
    if byte ~= other_byte then return byte < other_byte end
  end
  return #id < #other
end

-- Returns: up to that many ids, those that come after this one, or the first ones after ''
local function page_after(id, limit)
  local bucket_of, hash = bucket_finder(bucket_count()), id ~= '' and hash_of(id) or 0
  local start, width = bucket_of(hash)
  local equal_count = redis.call('ZCOUNT', BUCKET .. start, hash, hash)
  local found = redis.call('ZRANGEBYSCORE', BUCKET .. start, hash, '+inf', 'LIMIT', 0, limit + equal_count)
  local next = 1
  while found[next] and hash_of(found[next]) == hash and not is_before(id, found[next]) do next = next + 1 end
  local page = {}
  while true do
    for i = next, math.min(#found, next + limit - #page - 1) do page[#page + 1] = found[i] end
    if #page == limit or start + width == HASHES then return page end
    start, width = bucket_of(start + width)
    found, next = redis.call('ZRANGEBYSCORE', BUCKET .. start, '-inf', '+inf', 'LIMIT', 0, limit - #page), 1
  end
end
