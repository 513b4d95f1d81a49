-- Take the ids whose hash is gone out of the index: one page of it.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: how many ids to look at
-- Returns: { how many were taken out, the last id of the page or '' when it was the last page }

local limit = tonumber(ARGV[2])
local ids = page_after(ARGV[1], limit)
local gone = {}
for _, id in ipairs(ids) do
  if redis.call('EXISTS', 'device:' .. id .. ':metadata') == 0 then gone[#gone + 1] = id end
end
if #gone > 0 then forget_ids(gone) end
return { #gone, #ids == limit and ids[#ids] or '' }
