-- Compare one page of `devices` with the hashes and with the index: somebody may have added ids, or lost a key of ours.
--
-- ARGV[1]: cursor of the page, '' for the first one
-- ARGV[2]: how many ids to look at, or a few more
-- Returns: { how many were taken out, the next page's cursor or '' when this was the last one }

-- Whether there is a hash that readers take for a device.
local function is_held(id)
  local key = 'device:' .. id .. ':metadata'
  local found = redis.pcall('HEXISTS', key, 'last_updated')
  if type(found) == 'number' then return found == 1 end
  return not is_wrong_type(found) and redis.call('HEXISTS', key, 'last_updated') == 1 -- raises what pcall only answered
end

local cursor, ids = unpack(redis.call('SSCAN', DEVICES, ARGV[1] == '' and '0' or ARGV[1], 'COUNT', ARGV[2]))
local gone, lost = {}, {}
local is_indexed = index_finder()
for _, id in ipairs(ids) do
  if not is_held(id) then
    gone[#gone + 1] = id
  elseif not is_indexed(id) then
    lost[#lost + 1] = id
  end
end
if #lost > 0 then index_ids(lost) end
return { forget_ids(gone), cursor == '0' and '' or cursor }
