-- Prune one page of the index, and put into `devices` what it lacks.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: how many ids to look at
-- Returns: { how many were taken out, the last id of the page or '' when it was the last page }

local limit = tonumber(ARGV[2])
local ids = page_after(ARGV[1], limit)
local removed_count, staying = prune(ids)
if #staying > 0 then redis.call('SADD', DEVICES, unpack(staying)) end
return { removed_count, #ids == limit and ids[#ids] or '' }
