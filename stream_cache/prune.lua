-- Prune one page of the index.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: how many ids to look at
-- Returns: { how many were taken out, the last id of the page or '' when it was the last page }

local limit = tonumber(ARGV[2])
local ids = page_after(ARGV[1], limit)
return { prune(ids), #ids == limit and ids[#ids] or '' }
