-- Sessions of a tenant, created last first. ARGV: 6 the tenant, 7 the place and id before which, or '', 8 how many.
local before, found = ARGV[7] == '' and '+' or '(' .. ARGV[7], {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', base .. 'tenant:' .. ARGV[6], before, '-', 'LIMIT', 0, ARGV[8])) do
    local id = string.sub(member, 17)
    found[#found + 1] = {id, redis.call('HGETALL', base .. 'session:' .. id)}
end
return answer('done', found)
