-- Set a pin. ARGV: 6 its name, 7 what it is.
if fenced() then
    return answer('fenced')
end
change()
if redis.call('HSET', base .. 'pins', ARGV[6], ARGV[7]) == 0 then
    count_removal()
end
return answer('done')
