-- Walk one page of the index: take the ids whose hash is gone out of it, and note those whose hash will soon be.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: how many ids to look at
-- Returns: { how many were taken out, the last id of the page or '' when it was the last page }

local limit = tonumber(ARGV[2])
local ids = page_after(ARGV[1], limit)
local gone, soon = {}, {}
for _, id in ipairs(ids) do
  local left_ms = redis.call('PTTL', 'device:' .. id .. ':metadata')
  if left_ms == -2 then
    gone[#gone + 1] = id
  elseif left_ms >= 0 and left_ms < SOON_MS then
    soon[#soon + 1], soon[#soon + 2] = now_ms + left_ms, id
  end
end
note_expiring(soon)
return { forget_ids(gone), #ids == limit and ids[#ids] or '' }
