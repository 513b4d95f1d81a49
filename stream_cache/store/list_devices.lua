-- Read one page of the index.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: the most ids
-- ARGV[3]: the bytes of ids after which no more follow: the first id that goes beyond them is the last one
-- Returns: { ids, how many devices there are }

local ids, size = page_after(ARGV[1], tonumber(ARGV[2])), 0
for i, id in ipairs(ids) do
  size = size + #id
  if size > tonumber(ARGV[3]) then
    ids[i + 1] = nil -- a reply ends there
    break
  end
end
return { ids, redis.call('SCARD', DEVICES) }
