-- Read the metadata of devices.
--
-- KEYS: the devices' hashes
-- Returns: for each, the values of the fields below, or an empty list where nothing is held of it

local found = {}
for i, key in ipairs(KEYS) do
  local fields = redis.pcall('HMGET', key, 'last_updated', 'datatype_id', 'datatype_name', 'datatype_unit', 'persist',
    '_json')
  if fields.err and not string.find(fields.err, 'WRONGTYPE', 1, true) then return redis.error_reply(fields.err) end
  found[i] = (fields.err or not fields[1]) and {} or fields
end
return found
