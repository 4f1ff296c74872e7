-- Take a pin away. ARGV: 6 its name.
local found = redis.call('HDEL', base .. 'pins', ARGV[6])
if found == 1 then
    change()
    count_removal()
end
return answer('done', (found == 1 or attempt > 0) and 1 or 0)
