import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collection;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.transport.Netty4Plugin;

/**
 * One node of Elasticsearch 7 from its jars, without security and the checks of its start script.
 *
 * Its data are in the folder it runs in. Arguments: settings, as name=value.
 */
public class Elasticsearch7 {
    private static class PluggedNode extends Node {
        PluggedNode(Environment environment, Collection<Class<? extends Plugin>> plugins) {
            super(environment, plugins, true);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path home = Paths.get("data").toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Settings.Builder settings = Settings.builder().put("path.home", home);
        for (String argument : arguments) {
            String[] setting = argument.split("=", 2);
            settings.put(setting[0], setting[1]);
        }
        Environment environment = new Environment(settings.build(), config);
        new PluggedNode(environment, Arrays.asList(Netty4Plugin.class)).start();
        Thread.currentThread().join();
    }
}
