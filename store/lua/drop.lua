-- Drop sessions that expired before a time and have not moved. ARGV: 6 that time; then of each its id and the sequence of its last move.
local dropped = {}
for at = 7, #ARGV, 2 do
    local id = ARGV[at]
    local now = redis.call('HMGET', base .. 'session:' .. id, 'sequence', 'used_at_s', 'ttl_s')
    if not now[1] then
        if attempt > 0 then
            dropped[#dropped + 1] = id
        end
    elseif now[1] == ARGV[at + 1] and tonumber(now[2]) + tonumber(now[3]) < tonumber(ARGV[6]) then
        if #dropped == 0 then
            change()
        end
        remove(id)
        dropped[#dropped + 1] = id
    end
end
return answer('done', dropped)
