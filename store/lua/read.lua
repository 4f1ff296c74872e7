-- Sessions with the newest entries of their logs. ARGV: 6 below which sequence, or '', 7 how many, from 8 on sessions.
local before, limit, found = tonumber(ARGV[6]), tonumber(ARGV[7]), {}
for at = 8, #ARGV do
    local session, log = base .. 'session:' .. ARGV[at], base .. 'log:' .. ARGV[at]
    local last, entries = tonumber(redis.call('HGET', session, 'sequence') or 0), {}
    if before and before <= last then
        last = before - 1
    end
    for sequence = last, 1, -1 do
        if #entries >= 2 * limit then
            break
        end
        local entry = redis.call('HGET', log, sequence)
        if entry then
            entries[#entries + 1] = sequence
            entries[#entries + 1] = entry
        end
    end
    found[#found + 1] = {ARGV[at], redis.call('HGETALL', session), entries}
end
return answer('done', found)
