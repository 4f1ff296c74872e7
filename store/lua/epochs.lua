-- ARGV: 6 `begin` the next epoch, or `refuse` what comes from before 7.
change()
if ARGV[6] == 'begin' then
    known[3] = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
else
    redis.call('HSET', KEYS[1], 'refused_before', ARGV[7])
end
return answer('done')
