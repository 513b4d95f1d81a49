-- Read the metadata of devices, all at one moment.
--
-- ARGV[1]: MessagePack list of device ids
-- ARGV[2]: the most bytes; where there would be more, only the first devices are answered, but one at least
-- Returns: for each, the values of the fields below, or an empty list where there is no hash of ours

local found, size, most = {}, 0, tonumber(ARGV[2])
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  local fields = redis.pcall('HMGET', 'device:' .. id .. ':metadata', 'last_updated', 'datatype_id', 'datatype_name',
    'datatype_unit', 'persist', '_json')
  if fields.err and not is_wrong_type(fields) then return redis.error_reply(fields.err) end
  if fields.err or not fields[1] then fields = {} end
  for _, value in ipairs(fields) do size = size + (value and #value or 0) end
  if size > most and i > 1 then break end
  found[i] = fields
end
return found
