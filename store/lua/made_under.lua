-- What requests of one key have made, by session. ARGV: 6 the key.
local key, found = ARGV[6], {}
for _, member in ipairs(redis.call('ZRANGEBYLEX', base .. 'keys', '[' .. key, '[' .. key .. '\255')) do
    local id, sequence = string.sub(member, #key + 1, -18), tonumber(string.sub(member, -16))
    local entry = redis.call('HGET', base .. 'log:' .. id, sequence)
    found[#found + 1] = {id, redis.call('HGETALL', base .. 'session:' .. id), {sequence, entry}}
end
return answer('done', found)
