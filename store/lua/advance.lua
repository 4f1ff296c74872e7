-- Compare-and-set a head, append to its log. ARGV: 6 session, 7 the head expected, 8 key, 9 entry, from 10 on fields to set.
local LOOKED_BACK = 10000
local id, session = ARGV[6], base .. 'session:' .. ARGV[6]
local now = redis.call('HMGET', session, 'head', 'sequence')
local last = tonumber(now[2] or 0)
if attempt > 0 then
    for sequence = last, math.max(1, last - LOOKED_BACK), -1 do
        if made(id, sequence) then
            return answer('done', sequence, redis.call('HGETALL', session))
        end
    end
end
if fenced() then
    return answer('fenced')
end
if not now[1] then
    return answer('missing')
end
if now[1] ~= ARGV[7] then
    return answer('moved', now[1])
end
change()
redis.call('HSET', session, 'sequence', last + 1, unpack(ARGV, 10))
append(id, last + 1, ARGV[8], ARGV[9])
set_expiry(id)
return answer('done', last + 1, redis.call('HGETALL', session))
