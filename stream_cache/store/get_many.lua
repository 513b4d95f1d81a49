-- Read the metadata of devices.
--
-- KEYS: the devices' hashes
-- ARGV[1]: the most bytes to be read; where there are more, the answer ends early, after one device at least
-- Returns: for each, the values of the fields below, or an empty list where nothing is held of it

local found, left_bytes = {}, tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local fields = redis.pcall('HMGET', key, 'last_updated', 'datatype_id', 'datatype_name', 'datatype_unit', 'persist',
    '_json')
  if fields.err and not string.find(fields.err, 'WRONGTYPE', 1, true) then return redis.error_reply(fields.err) end
  if fields.err or not fields[1] then
    found[i] = {}
  else
    for j = 1, 6 do left_bytes = left_bytes - (fields[j] and #fields[j] or 0) end
    if left_bytes < 0 and i > 1 then break end
    found[i] = fields
  end
end
return found
